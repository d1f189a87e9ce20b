"""Parts of drift detection: alarms, the e-detector, its reference."""
