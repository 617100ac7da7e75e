"""The only code that speaks with LINSTOR."""
