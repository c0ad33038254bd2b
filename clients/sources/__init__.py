"""Sources: where a participant's rows come from.

A source is one line of text in the participant's own policy:

    csv:/data/heart.csv        csv:/data/2024-*.csv.gz?separator=;&decimal=,&encoding=latin-1
    parquet:/data/heart.parquet
    sql:postgresql+psycopg://user:secret@host/db?query=SELECT * FROM heart
    sql:sqlite:////data/heart.db?table=heart
    excel:/data/heart.xlsx?sheet=2024
    duckdb:/data/heart.duckdb?table=heart
    fhir:/data/export?columns=patient_id,gender,birthDate,8480-6,condition:I25
    omop:postgresql+psycopg://user:secret@host/db?columns=person_id,gender,birth_date,measurement:3004249
    npz:/data/beats.npz?values=beats&prefix=beat
    png:/data/scans
    public:/data/hospital      synthetic:400?seed=7

`placebo:SEED:` before `public:` or `synthetic:` asks for labels drawn from the schema's public prior instead of the
rows' own (a simulation's control, never data).
"""

from __future__ import annotations

from clients.sources.csv_file import read_csv
from clients.sources.reading import Source, numpy_generator, parse_source, public_folder, read, read_table
from clients.sources.table import FileSource, ManyFiles, TableSource, WrongRowsError

__all__ = [
    "FileSource",
    "ManyFiles",
    "Source",
    "TableSource",
    "WrongRowsError",
    "numpy_generator",
    "parse_source",
    "public_folder",
    "read",
    "read_csv",
    "read_table",
]
