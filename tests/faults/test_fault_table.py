"""The table of faults names each fault once, counts its tries and shows what failed."""

from types import SimpleNamespace

import fault_table


def report(name, nodeid, **properties):
    return SimpleNamespace(nodeid=nodeid, user_properties=[("fault", name), *properties.items()])


def test_tries_are_counted_and_failures_are_named():
    killed, full, *_ = fault_table.PROMISED
    other = SimpleNamespace(nodeid="t.py::other", user_properties=[])
    stats = {
        "passed": [report(killed, "a", tries=30), report(full, "b"), other],
        "failed": [report(full, "c"), other],
        "error": [report(full, "c")],  # the same test, when it was torn down
        "skipped": [report("a clock that is set back", "d")],
    }
    found = fault_table.rows(stats)
    assert found == [
        (killed, 30, fault_table.PROMISED[killed], "as promised"),
        (full, 3, fault_table.PROMISED[full], "FAILED: c"),
    ]
    assert fault_table.lines(found)[2].startswith(f"| {killed} | 30 | same command")
