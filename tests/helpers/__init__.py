"""What tests share: tiny models, training steps, whole runs, processes. Nothing here is a test."""
