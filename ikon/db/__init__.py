"""What Ikon remembers: tables, migrations, and one file of queries for each noun.

A query is a plain synchronous function of a connection and plain values. `Database` runs it on a thread, in a transaction.
"""
