"""The paper: MQBench files, its networks, published figures, its table."""
