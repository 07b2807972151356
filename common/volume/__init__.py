"""CTs and labelmaps with their lineage: read, written, resampled, aligned, cut, as attenuation."""
