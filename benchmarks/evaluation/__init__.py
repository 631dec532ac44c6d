"""Quality of any OpenAI-compatible server on a data set: `python -m benchmarks.evaluation --help`.

`datasets` reads questions with their right answers (`jsonl`, `layouts`, `pictures`), `answers` collects what
a server says to them (`asking`, `servers`), `metrics` judges each answer, `scores` and `paired` add that up
with intervals, `tables` and `page` show it. `run` is the order of it.
"""
