"""`consortia report`: one self-contained page (and Markdown) about a finished run, made from its records alone."""
