"""How a publisher turns events into messages and gets them to Kafka."""
