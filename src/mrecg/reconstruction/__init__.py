"""The method: capacity, plan, stream, tuning."""
