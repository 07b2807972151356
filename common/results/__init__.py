"""What a registration found: typed results, parameters.pt, files for 3D Slicer, cohorts."""
