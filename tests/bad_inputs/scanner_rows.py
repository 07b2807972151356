"""The rows of scanners' own formats, and of surfaces."""

from row import Row

SCANNERS_OWN = [
    *[Row("registration", f"xray.png -v ct.nii.gz -o out --calibration {name}", f"{name}|{words}") for name, words in [
        ("cam_section.txt", "has a further section 'undistortion'|undistort the X-rays"), ("cam_radial.json", "states lens distortion (radial)"),
        ("cam_two_lenses.json", "states lens distortion (dist, k1)"), ("cam_square.npy", "holds (3, 3)|one matrix of 3 x 4"), ("cam_torn.npy", "cannot be read|save it again"),
        ("cam_zero.txt", "has no camera|calibrate again"), ("cam_none.mat", "no such matrix"), ("cam_short.yml", "has no camera_matrix"), ("cam_code.yml", "cannot be read|export it again"),
        ("cam_flat.json", "view angle of 0"),
    ]],
    *[Row("registration", f"{name} -v ct.nii.gz -o out --sdd 900 --pixel_spacing 1", words) for name, words in [
        ("colour16.png", "colour16.png|is a colour image"), ("torn.avi", "torn.avi|export the run again"), ("torn.mp4", "torn.mp4|export the run again"),
        ("spelt.png", "spelt.json|has a key 'sdd'|is sdd_mm meant"), ("mixed", "both DICOM files and pictures|name the files"), ("disc/DICOMDIR", "lists GONE|copy the whole folder"),
        ("pages.tif --frame 2", "has no frame 2|correct --frame"),
    ]],
    *[Row("registration", f"xray.png -v {name} -o out --sdd 900 --pixel_spacing 1 --material metal", f"{name}|{words}") for name, words in [
        ("metres.stl", "longest side is 0.03 mm|m (30 mm)|import_mesh.py"),
        ("inches.ply", "longest side is|inch (30 mm)|import_mesh.py"),
        ("open.stl", "is open|close it"),
        ("crossing.stl", "does not cross itself|repair it"),
        ("text.stl", "cannot be read|export it again"),
        ("empty.obj", "no triangles|export"),
        ("text.gii", "cannot be read|export it again"),
        ("cut.stl", "cut.stl"),
    ]],
    Row("registration", "xray.png -v ball.stl -o out --sdd 900 --pixel_spacing 1 --material metal bone", "--material|2 materials for 1 volumes|one per surface"),
    Row("registration", "xray.png -v ball.stl -o out --sdd 900 --pixel_spacing 1 --mask seg.nii.gz", "--mask|a surface has none"),
    Row("create_drr", "--volume open.stl --pose_path result/parameters.pt --output_path out/drr.png", "open.stl|is open"),
    Row("registration", "xray.png -v ct.nii.gz -o out --sdd 90 --pixel_spacing 0.1", "SDD 90 mm|is the distance in centimetres?"),
    *[Row("center_isometric", f"-i {name} -o out", f"{name}|{words}") for name, words in [
        ("torn.nrrd", "export it again, or as NIfTI"), ("torn.mha", "export it again, or as NIfTI"), ("torn.mhd", "export it again, or as NIfTI"), ("torn.zip", "copy it again"),
    ]],
    *[Row("crop_cts", f"--base_dir . --ct_filename {name} --seg_filename seg.nii.gz", f"{name.split()[0]}|{words}") for name, words in [
        ("gap", "1 slices are missing|copy the series again"), ("twice_slices", "lie at one place|remove other phases"),
        ("slid", "slide away by|dcm2niix"), ("series_two", "contains 2 CT series|B30f|B70f|name one file|--series of crop_cts.py"), ("series_two.zip", "contains 2 CT series|choose by its words"),
        ("series_two --series 9", "contains 2 CT series, none of them with 9|choose other words"), ("series_two --series B", "2 of them with B|choose other words"), ("few", "contains no CT series of 5 slices"),
        ("other_size", "differ in size, orientation or pixel spacing|dcm2niix"), ("nowhere", "1 of its 8 slices have no ImagePositionPatient|dcm2niix"), ("no_pixels", "cannot be read|copy it again"), ("torn_slice", "cannot be read|copy it again"),
        ("worded", "cannot be read|copy it again"), ("enhanced_torn.dcm", "enhanced_torn.dcm|copy it again"), ("enhanced_stacks.dcm", "contains 2 CT series|stack A|stack B"), ("enhanced_gap.dcm", "1 slices are missing"),
        ("enhanced_nowhere.dcm", "1 of its 8 slices have no ImagePositionPatient|dcm2niix"), ("nothing", "contains no CT series"), ("raw_padded.nii.gz", "neither air nor fat|1024 higher"),
    ]],
    *[Row("segmentation_preprocessing", f"-i {name} -o out", f"{name}|{words}") for name, words in [
        ("masks_over", "b shares|do not overlap"), ("masks_grids", "another grid than the other masks"), ("masks_empty", "holds empty masks only"), ("seg_over.nii.gz", "belong to several of its masks"),
        ("torn.nrrd", "export it again"),
    ]],
    *[Row("segmentation_preprocessing", f"-i {name} -o out", f"{name}|{words}") for name, words in [
        ("far/from/rs_alone.dcm", "the CT that its contours were drawn on is not in its folder|copy both"), ("study/rs_other.dcm", "the CT that its contours were drawn on"), ("study/rs_none.dcm", "no region with closed contours"),
        ("study/rs_over.dcm", "femur shares|do not overlap"), ("study/rs_outline.dcm", "no region with closed contours but the outline"), ("study/rs_turned.dcm", "a contour of femur does not lie in a slice"), ("study/rs_away.dcm", "lie outside its CT"),
        ("study/rs_torn.dcm", "rs_torn.dcm"), ("study/rs_nameless.dcm", "cannot be read|export it again"),
    ]],
    Row("segmentation_preprocessing", "-i ct_slices/contours.dcm -o out --labels ulna", "has no label named 'ulna'|femur_left"),
    Row("segmentation_preprocessing", "-i boxed.seg.nrrd -o out --labels ulna", "has no label named 'ulna'|femur_left"),
    Row("segmentation_preprocessing", "-i seg.nii.gz -o out --labels femur_left", "has no label named 'femur_left'|no names|seg.csv"),
    Row("segmentation_preprocessing", "-i gone.seg.nrrd -o out --labels femur_left", "not found"),
    Row("registration", "xray.png -v ct.nii.gz -o out --sdd 900 --pixel_spacing 1 --mask seg_masks --labels ulna", "has no label named 'ulna'|femur_left|--labels"),
    Row("registration", "xray.png -v ct.nii.gz -o out --sdd 900 --pixel_spacing 1 --mask gone.nii.gz --labels femur", "gone.nii.gz|not found"),
    Row("registration", "xray.png -v ct.nii.gz ct.nii.gz -o out --sdd 900 --pixel_spacing 1 --mask seg_masks seg.nii.gz --labels femur_left femur_left", "seg.nii.gz|has no label named 'femur_left'|no names"),
    Row("registration", "xray.png -v ct.nii.gz -o out --sdd 900 --pixel_spacing 1 --series 3", "ct.nii.gz|is a file, given with --series|a DICOM folder"),
    Row("registration", "xray.png -v ct_two -o out --sdd 900 --pixel_spacing 1 --series 9", "contains 2 CT series, none of them with 9"),
    Row("registration", "xray.png -v ct_two -o out --sdd 900 --pixel_spacing 1", "contains 2 CT series|--series"),
    Row("create_drr", "--volume ct.nii.gz --pose_path result/parameters.pt --output_path out/drr.png --mask seg_masks --labels ulna", "has no label named 'ulna'|femur_left"),
    Row("create_drr", "--volume ct_two --pose_path result/parameters.pt --output_path out/drr.png", "contains 2 CT series|name one file"),
    Row("visualize_3d_drr", "--volume ct_two --parameters result/parameters.pt --output_dir out", "contains 2 CT series"),
    Row("animate_2d_pose", "--volume gap --parameters result/parameters.pt --output_path out/a.gif", "1 slices are missing"),
    Row("finetuned", "-i ct.nii.gz -o out -c other_weights.pth --name m --iterations 1 --device cpu --mask seg.nii.gz --labels ulna", "has no label named 'ulna'|no names"),
    Row("agnostic", "-i cohort -o out --name m --iterations 1 --device cpu --mask seg.nii.gz --labels ulna", "has no label named 'ulna'|no names"),
    Row("segmentation_preprocessing", "-i seg_masks -o out --labels ulna", "has no label named 'ulna'|femur_left"),
    Row("crop_cts", "--base_dir . --ct_filename ct.nii.gz --seg_filename seg_masks --labels ulna radius 1 2", "has no label named 'ulna'|femur_left"),
]  # fmt: skip
