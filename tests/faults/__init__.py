"""Workers on a real Apache Kafka under every fault we know how to cause, and what must hold afterwards."""
