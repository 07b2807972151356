# The suite for a cluster:  docker build -t bone .   (--build-arg FLAVOUR=requirements-cpu without GPUs)
#   docker run --rm --gpus all -v "$PWD:/data" bone python /opt/bone/registration.py knee.dcm -v femur.nii.gz -o results
#   docker run --rm -v "$PWD:/data" bone snakemake -s /opt/bone/workflow/Snakefile --cores 8 --configfile my_cohort.yaml
# bone.def is the same for Apptainer. tests/container/build.py carries out these steps without an engine.
FROM python:3.11-slim-bookworm

# OpenMP: without it, the kernels of several threads wait for each other
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*

ARG FLAVOUR=requirements
WORKDIR /opt/bone
COPY requirements.txt requirements-cpu.txt requirements.lock requirements-cpu.lock ./
RUN pip install --no-cache-dir --no-deps --require-hashes -r $FLAVOUR.lock
# PyTorch for the CPU, which no lock holds; otherwise nothing is left to install
RUN pip install --no-cache-dir -r $FLAVOUR.txt && pip check
COPY . .

# read-only and run by anybody: caches go where everybody may write
ENV NUMBA_CACHE_DIR=/tmp/numba MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache PYTHONDONTWRITEBYTECODE=1
RUN useradd --create-home bone
USER bone
WORKDIR /data
CMD ["python", "/opt/bone/registration.py", "--help"]
