"""What exists for the paper's sake: MQBench files, its networks, published figures, its table."""
