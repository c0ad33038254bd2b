#!/bin/sh
# Takes out of a virtual environment what no service of ours reads: tests, headers, libraries of features that are not used,
# symbols for debuggers. It ends with importing what is left and one step of training.
#   sh platform/trim.sh VENV
set -eu
cd "$1"/lib/python3*/site-packages
rm -rf torch/include torch/share torch/test torch/lib/libtorchbind_test.so torch/lib/libaoti_custom_ops.so \
  torch/lib/libbackend_with_compiler.so torch/lib/libjitbackend_test.so
find torch/bin -type f ! -name torch_shm_manager -delete  # which PyTorch looks for when it is imported
# Arrow reads and writes local files; nothing here speaks Flight or S3.
rm -rf pyarrow/include pyarrow/src pyarrow/libarrow_flight.* pyarrow/libarrow_python_flight.* pyarrow/_flight.* \
  pyarrow/libarrow_s3.* pyarrow/_s3fs.*
# Names of places and carriers; whether digits can be a telephone number needs none of them.
rm -rf phonenumbers/geodata phonenumbers/carrierdata phonenumbers/tzdata
# Flower declares uv, an installer, and calls it only where runs bring dependencies, which is switched off.
rm -rf uv uv-* "$1/bin/uv" "$1/bin/uvx"
# Tests of a cryptographic library, with private keys that everybody knows: a scan of the layers for keys would name them.
rm -rf Crypto/SelfTest
for package in joblib networkx numpy opacus pandas pyarrow scipy sklearn skops sympy; do
  find "$package" -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +
done
for package in greenlet pyarrow sqlalchemy torch uvloop zstandard; do
  find "$package" -type f \( -name '*.so' -o -name '*.so.*' \) -exec strip --strip-unneeded {} +
done
"$1/bin/python" - <<'END'
import duckdb, flwr, openpyxl, opacus, pandas, phonenumbers, psycopg, pyarrow.csv, pyarrow.dataset, pyarrow.parquet
import scipy.optimize, scipy.stats, skops.io, sklearn.ensemble, sqlalchemy, torch, uvloop, zstandard
model = torch.nn.Linear(3, 1)
optimizer = torch.optim.Adam(model.parameters())
model(torch.ones(4, 3)).sum().backward()
optimizer.step()
END
