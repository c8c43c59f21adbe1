"""Payments: quotes, charges by allowance, invoices and refunds."""
