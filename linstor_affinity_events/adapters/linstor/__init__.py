"""All communication with LINSTOR."""
