"""From a Kaggle image competition to a checked submission, one module per stage.

`python -m pipelines.<stage> COMPETITION` runs a stage; `make` lists them.  Stages are verbs and know the person
at the keyboard; `pipelines.core` holds the nouns and knows neither arguments nor the terminal.
"""

import signal
import sys

# While `python -m pipelines.<stage>` looks for the stage, argv says so: until `command.run` takes over, an interrupt
# is to end it without a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
