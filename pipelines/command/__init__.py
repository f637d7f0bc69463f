"""What all stages share at the command line: arguments, exit statuses, child processes and printed tables."""

from pipelines.command.arguments import Words, parser
from pipelines.command.printing import (
    duration,
    print_credential,
    print_epochs,
    print_parts,
    progress,
    table,
    uncertainty,
)
from pipelines.command.running import EXIT_BROKEN_PIPE, EXIT_TERMINATED, EXIT_TRY_LATER, EXIT_USER_ERROR, run, run_stage

__all__ = ["EXIT_BROKEN_PIPE", "EXIT_TERMINATED", "EXIT_TRY_LATER", "EXIT_USER_ERROR", "Words", "duration", "parser"]
__all__ += ["print_credential", "print_epochs", "print_parts", "progress", "run", "run_stage", "table", "uncertainty"]
