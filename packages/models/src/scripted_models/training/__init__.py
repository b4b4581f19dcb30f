"""How the checkpoints and datasets of this package are made; needs torch and `tokenizers`.

`python -m scripted_models.training.train --out FOLDER` trains both checkpoints and
`python -m scripted_models.training.evaluate` measures what the model cards say.
"""
