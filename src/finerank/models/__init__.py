"""Model families, one file each; none imports another."""
