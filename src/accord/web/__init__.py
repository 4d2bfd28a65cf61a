"""The annotation app: where people judge, and where their manager sees whether it can be trusted."""
