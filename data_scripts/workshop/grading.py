"""Run submissions in such a way that every submission gets a grade.

nbgrader interrupts a cell that runs too long, and then continues. If the code ignores the interrupt
or ends the kernel, nbgrader gives up, and the submission gets no grade and no feedback.
"""

from __future__ import annotations

from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat.v4 import new_output
from nbgrader.converters import Autograde
from nbgrader.preprocessors import Execute


class ExecuteAll(Execute):
    """Run all cells. If the kernel is lost, the cell that lost it and all later cells fail."""

    lost = ""  # why the kernel no longer answers

    def preprocess(self, nb, resources=None, **kwargs):
        """Run the cells of one submission."""
        self.lost = ""
        return super().preprocess(nb, resources, **kwargs)

    def preprocess_cell(self, cell, resources, index):
        """Run one cell, unless an earlier cell lost the kernel."""
        if cell.cell_type != "code":
            return cell, resources
        if not self.lost:
            try:
                return super().preprocess_cell(cell, resources, index)
            except CellTimeoutError:
                self.lost = f"cell {index + 1} ran for more than {self.timeout} s without stopping"
            except DeadKernelError:
                self.lost = f"cell {index + 1} ended the kernel"
        message = f"Grading stopped here: {self.lost}."
        cell.outputs.append(
            new_output("error", ename="Stopped", evalue=message, traceback=[message])
        )
        return cell, resources


# The steps of nbgrader's autograde, in its order.
PREPROCESSORS = [
    ExecuteAll if step is Execute else step for step in Autograde().autograde_preprocessors
]
