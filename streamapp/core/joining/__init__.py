"""Parts of the joiner: what waits, what is remembered, what a checkpoint keeps."""
