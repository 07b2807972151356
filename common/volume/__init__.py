"""CTs, labelmaps and their lineage: read, written, resampled, aligned."""
