"""The configuration of Ligato's Linux plugins: keys and JSON values in, connections and statuses out."""
