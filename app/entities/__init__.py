"""The CRM's records, of whatever type a tenant names."""
