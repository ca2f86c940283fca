"""Training of the bundled micro checkpoints, from fetching the text to the table in `models/README.md`.

    python -m turbosparse.train.data --text models/text             fetch, clean, split; write the two text files
    python -m turbosparse.train.micro mistral -o DIR --minutes 30   train one checkpoint (or `moe`); `--resume`
    python -m turbosparse.train.evaluate DIR --text FILE            perplexity, zero rate, predictors, sample text

Needs the extra `turbosparse[train]`.
"""
