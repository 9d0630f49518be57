"""What `--help` teaches beside the options: command lines that work, and where things go."""

ALL = """\
examples:
  hybrid train configs/quickstart/hybrid.yaml                 # into runs/quickstart-hybrid; the same command resumes
  hybrid evaluate runs/quickstart-hybrid --steps 0,1,2,4,8 --policies confidence,threshold
  hybrid sample runs/quickstart-hybrid --prompt 73250100,41000213 --steps 8
  hybrid sample experiments/weights/mult_4x4-hybrid --prompt '5632*7434' --steps 4 --live   # trained already
  hybrid show configs/quickstart/hybrid.yaml                  # every key and its value, sizes, other kinds
  hybrid COMMAND --help                                       # more of each
"""

OF: dict[str, str] = {
    "train": """\
examples:
  hybrid train configs/quickstart/hybrid.yaml
  hybrid train configs/quickstart/hybrid.yaml seed=1 model.pairing=separate run=runs/separate
  hybrid train configs/quickstart/hybrid.yaml model.drafter=none model.feed=none run=runs/direct   # a baseline
  hybrid train configs/quickstart/hybrid.yaml train.devices=2 train.compile=true run=runs/two

The folder (run=, else runs/ and the config's name) gets config.yaml, model.safetensors, checkpoints and
logs/metrics.csv. Ctrl-C saves first; the same command goes on from there. `hybrid show CONFIG` lists the keys.
""",
    "evaluate": """\
examples:
  hybrid evaluate experiments/weights/mult_3x3-hybrid --steps 0,1,4 --examples 100 --out runs/frontier-of-3x3
  hybrid evaluate experiments/weights/mult_3x3-hybrid --policies '{kind: threshold, threshold: 0.9}' --out runs/t
  hybrid evaluate runs/quickstart-hybrid --steps 8 --temperature 0.7 --drafts 5 evaluate.choose=likelihood
  hybrid evaluate runs/quickstart-hybrid evaluate.split=valid --verify 0,18 --controls gold,shuffled,pause

Writes frontier.json, .csv, .png and .html: accuracy with its interval, forwards, tokens and seconds of every row.
""",
    "sample": """\
examples:
  hybrid sample experiments/weights/mult_3x3-hybrid --prompt '123*456' --steps 4
  hybrid sample experiments/weights/mult_3x3-hybrid --prompt '123*456' --threshold 0.9 --live
  hybrid sample experiments/weights/mult_3x3-hybrid --prompt '123*456' --forwards 9 --json
  hybrid sample experiments/weights/mult_3x3-hybrid --prompt '123*456' --steps 2 --verify 25 --trace runs/draft.json
  seq -f '%g*456' 101 10 991 | hybrid sample experiments/weights/mult_3x3-hybrid --steps 1 --out runs/answers.txt

Multiplication is written from the last digit: 123*456 asks for 321 x 654. Several limits may be given: the first that
is reached holds.
""",
    "show": """\
examples:
  hybrid show configs/quickstart/hybrid.yaml
  hybrid show experiments/frontier/mult_3x3.yaml model.pairing=separate model.drafter.attention_block=5
""",
    "sweep": """\
examples:
  hybrid sweep configs/quickstart/hybrid.yaml seed=0,1,2 model.pairing=shared,separate --jobs 2
  hybrid sweep configs/quickstart/hybrid.yaml seed=0,1 --slurm slurm_partition=gpu,gpus_per_node=8
""",
    "report": """\
examples:
  hybrid report runs/quickstart-hybrid runs/direct --out runs/both
  hybrid report runs/draft.json --out runs/film   # a page that plays what `hybrid sample --trace` wrote
""",
    "check-data": """\
examples:
  hybrid check-data configs/quickstart/hybrid.yaml
  hybrid check-data experiments/frontier/mult_3x3.yaml task.style=products model.canvas=18 --samples 5
""",
    "export": """\
examples:
  hybrid export experiments/weights/mult_3x3-hybrid runs/pipeline
  hybrid export runs/quickstart-hybrid runs/pipeline --push NAME/hybrid-quickstart --private
""",
    "harness": """\
examples:
  hybrid harness runs/quickstart-hybrid --tasks gsm8k_local --include docs/harness --steps 16 --limit 100
""",
}
