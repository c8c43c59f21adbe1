"""What every service needs. A service is `service.py`, `domain.py`, `store.py` and `schema.sql`.

This file imports nothing, so that rules (`domain.py`) load no server and no database driver.
"""
