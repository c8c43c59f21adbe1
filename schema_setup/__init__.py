"""What brings a service's database up to date: for the supervisor, and for those who serve.

It imports nothing of ours but the contract. What a package says of its tables is read, not run.
"""
