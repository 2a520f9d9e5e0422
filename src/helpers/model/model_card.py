"""The model card (README.md) of a checkpoint that the kit writes."""

from __future__ import annotations

from helpers.model.decoding import Reader

_USE = (
    "```python",
    "import torch",
    "from transformers import AutoModelForQuestionAnswering, AutoTokenizer",
    "",
    'folder = "THIS FOLDER"',
    "tokenizer = AutoTokenizer.from_pretrained(folder)",
    "model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()",
    'question = "Which enzyme is missing in phenylketonuria?"',
    'context = "Phenylketonuria reflects a shortage of phenylalanine hydroxylase."',
    'inputs = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)',
    'offsets = inputs.pop("offset_mapping")[0].tolist()',
    "outside = torch.tensor([part != 1 for part in inputs.sequence_ids()])",
    "with torch.inference_mode():",
    "    logits = model(**inputs)",
    'start, end = (x[0].masked_fill(outside, -float("inf")) for x in logits[:2])',
    "first = int(start.argmax())",
    "last = first + int(end[first : first + 30].argmax())",
    "print(context[offsets[first][0] : offsets[last][1]])",
    "```",
    "",
    "```text",
    "phenylalanine hydroxylase",
    "```",
    "",
)


def text(reader: Reader, with_head: bool = True) -> str:
    """What the weights are, where they come from, and how to use them; front matter as the hub's.

    ``Reader.origin`` gives the source with hashes, and the query-key-value order with its scores.
    """
    config, origin = reader.model.config, reader.origin
    kind = "Megatron-BERT" if config.norm_first else "BERT"
    million = sum(p.numel() for p in reader.model.parameters()) / 1e6
    lines = [
        "---",
        "language: en",
        "library_name: transformers",
        "pipeline_tag: question-answering",
        "license: other",
        "license_name: that-of-the-source-weights",
        f"tags: [{kind.lower()}, extractive-question-answering, biomedical]",
        "---",
        "",
        f"# {kind} for extractive question answering, {million:.0f} million parameters",
        "",
        f"{config.layers} layers of {config.hidden}, {config.heads} heads, feed-forward "
        f"{config.feed_forward}, LayerNorm epsilon {config.epsilon:g}, GELU by {config.gelu}. "
        "Written by the BioMegatron BioASQ kit.",
        "",
        *(_USE if with_head else ()),
        "## Source",
        "",
    ]
    if tuned := origin.get("fine_tuned"):
        lines += [
            f"Fine-tuned by the kit: {tuned['windows']} windows of text, {tuned['steps']} steps, "
            f"learning rate {tuned['learning_rate']:g}, seed {tuned['seed']}.",
            "",
        ]
    if origin.get("files"):
        began = "It began with weights" if tuned else "Weights"
        lines += [f"{began} read from `{origin['path']}` ({origin['format']} format):", ""]
        lines += [f"- `{name}`, SHA-256 `{digest}`" for name, digest in origin["files"].items()]
        lines += ["", *_about_order(origin["qkv"])]
        if gelu := origin.get("gelu"):
            lines += [f"GELU was taken to be the {gelu['form']} form ({gelu['reason']})."]
    else:
        lines += ["Of the weights it began with nothing was recorded here; a run's `manifest.json` "
                  "names them with their hashes."]  # fmt: skip
    if not with_head:
        lines += ["", "**An encoder without a span head: fine-tune it before asking questions.**"]
    lines += [
        "",
        "## License",
        "",
        "The terms of the source weights hold for these too. NVIDIA's checkpoints come under the "
        "terms on their NGC page; all-MiniLM-L6-v2 is Apache-2.0. Data used to fine-tune may add "
        "its own (BioASQ: see bioasq.org).",
    ]
    return "\n".join(lines) + "\n"


def _about_order(qkv: dict) -> list[str]:
    lines = [
        f"Query-key-value rows were read in order {qkv['order']}, decided by {qkv['measure']}."
    ]
    if qkv["scores"]:
        shown = ", ".join(f"{order}: {score:.3f}" for order, score in qkv["scores"].items())
        lines.append(f"Scores of the three orders: {shown}.")
    if heads := qkv.get("heads"):
        shown = ", ".join(f"{count}: {score:.3f}" for count, score in heads.items())
        lines.append(f"Scores of the numbers of heads tried in this order: {shown}.")
    return lines
