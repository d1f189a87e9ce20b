"""The pure core: events in, outputs out. No clock, no I/O, no logging.

In the order in which a prediction meets them:

- `events`, `settings`: what happens, and how models are watched
- `join` (its parts in `joining`): each prediction meets its outcome, or waits until it cannot come any more
- `monitor` (in `monitoring`): what is known of each model and group
- `losses`, `scores`, `baselines`: how good an answer was, and what a trivial predictor would have done
- `drift` (in `detection`): when losses are no longer what they were
- `retrain`: when to ask for training, and on which rows
- `learner` (in `learning`): an incremental model that has to prove itself
- `report`: how a model stands, as a value for others to show
- `hashing`, `quantiles`, `pickling`: tools
"""
