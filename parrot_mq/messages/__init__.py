"""The wire: typed messages, subjects and headers, codec."""
