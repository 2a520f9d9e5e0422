"""A stand-in for a model, and a run on BioASQ-mini that it predicted."""

from tiny import finished

from helpers.config import from_parameters
from helpers.io import write_json
from helpers.model.decoding import Candidate, write_nbest
from helpers.pipeline import write_ranked
from helpers.run import scores, stages
from helpers.run.folder import Run


class FirstWords:
    """A reader whose candidates are the first words of each text, those in capitals first."""

    def __init__(self, settings):
        self.settings = settings

    def predict(self, examples, progress=True):
        return [
            [
                Candidate(word, at, at + len(word), 0.0, 0.0, 0.5 / (n + 1))
                for n, (at, word) in enumerate(words(example.context)[:6])
            ]
            for example in examples
        ]


def words(text):
    places, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        places.append((at, word.strip(".,;()")))
        at += len(word)
    return sorted(places, key=lambda place: not place[1].isupper())


def mini_run_of_first_words(folder):
    """A run on BioASQ-mini without baselines, predicted by ``FirstWords``."""
    settings = from_parameters("mini", run="p", runs_dir=str(folder))
    run = Run.open(settings)
    files = stages.find_run_files(settings)
    converted = stages.convert_run(files, settings)
    finished(run, checkpoint={}, squad_step={})
    stages.write_run(converted, run)
    run.noted("data", scores.CONVERT)
    run.begin("model")
    run.record(write_json(run.path("model/model.nemo"), {}), "model")
    run.finish("model", train_pairs=10, seconds=1.0)
    run.begin("answers")
    reader = FirstWords(settings)
    for batch in converted.batches:
        found = reader.predict(batch.examples)
        nbest = write_nbest(run.path(f"nbest/{batch.name}.jsonl"), batch.examples, found)
        asked = [question.id for question in batch.golds]
        answers = run.path(f"answers/{batch.name}.json")
        write_ranked(answers, batch.examples, found, "sum", asked)
        for path in (nbest, answers):
            run.record(path, "answers")
    run.finish("answers", seconds=1.0)
    return run
