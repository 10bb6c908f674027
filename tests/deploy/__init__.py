"""What an operator is handed, checked with the tools of the people who run clusters."""
