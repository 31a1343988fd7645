"""Other people's networks behind FlowKit's interfaces. Their packages are imported on use."""
