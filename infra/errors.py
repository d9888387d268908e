"""The two families of expected errors, told apart by who must act. Imports nothing: DAG files may import it."""


class UserError(Exception):
    """The input or a setting must change; trying again cannot help.

    `problem` says what was asked and what was found (with the value), `where` names the place
    (file, row, product id, setting), `remedy` is what to do or type next.
    """

    exit_code = 64  # EX_USAGE in sysexits.h

    def __init__(self, problem: str, *, where: str = "", remedy: str) -> None:
        super().__init__(problem)
        self.problem, self.where, self.remedy = problem, where, remedy

    def __str__(self) -> str:
        lines = [self.problem]
        if self.where:
            lines.append(f"  where:  {self.where}")
        lines.append(f"  remedy: {self.remedy}")
        return "\n".join(lines)


class TransientError(Exception):
    """The outside world failed or another writer came first; the same call may succeed later."""

    exit_code = 75  # EX_TEMPFAIL in sysexits.h


class StaleError(TransientError):
    """Another writer committed to a table first; nothing was changed. Read the table again, and then go on."""
