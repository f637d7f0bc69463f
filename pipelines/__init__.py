"""From a Kaggle image competition to a checked submission, one module per stage.

`python -m pipelines.<stage> COMPETITION` runs a stage; `make` lists them.  Stages are verbs and know the person
at the keyboard; `pipelines.core` holds the nouns and knows neither arguments nor the terminal.
"""
