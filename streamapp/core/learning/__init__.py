"""Parts of the learner: the model that is learned."""
