"""Training without a server: agents that step on data of their own and mix with their neighbours."""
