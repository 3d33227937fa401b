"""The errors a user can meet. Each says what is wrong and where, and, in `hint`, what to do.

PipelineError (exit code 1)
├── UsageError (2)         the command line asks for something impossible
├── ConfigError            config.json
├── DataError              raw Wikipedia files and cleaned text
├── TokenizerError         tokenizer files, or text that has no tokens
├── DatasetError           tokenized datasets
├── CheckpointError        checkpoints
├── DeviceError            GPU or memory
├── TrainingError          a run that cannot go on
├── BusyError              another process works on the same folder
└── Interrupted (130, 143) Ctrl-C or SIGTERM, after everything was saved

Mistakes of our own are `assert`s, never one of these.
"""

import signal


class PipelineError(Exception):
    """An error for the user, shown without a traceback: `what` is wrong, and a `hint` for it."""

    exit_code = 1

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}\n  {self.hint}" if self.hint else self.what


class UsageError(PipelineError):
    exit_code = 2


class ConfigError(PipelineError):
    pass


class DataError(PipelineError):
    pass


class TokenizerError(PipelineError):
    pass


class DatasetError(PipelineError):
    pass


class CheckpointError(PipelineError):
    pass


class DeviceError(PipelineError):
    pass


class TrainingError(PipelineError):
    pass


class BusyError(PipelineError):
    pass


class Interrupted(PipelineError):
    """A signal ended the work after its state was saved; the exit code is 128 + the signal."""

    def __init__(self, what: str, hint: str = "", signal_number: int = signal.SIGINT) -> None:
        super().__init__(what, hint)
        self.exit_code = 128 + signal_number
