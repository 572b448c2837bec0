# One attempt a line, however long.
# ruff: noqa: E501
"""Attempts of user SQL to get out: those that read, those that change something, and all others."""

from __future__ import annotations

# What is in braces is filled in: {outside}, {inside} are canary files, {folder} is the table's folder, {elsewhere}
# a folder outside, {parquet} a data file, {port} a port that listens, {hot} and {stand_in} names of the service's own.
READS = """
SELECT * FROM read_text('{outside}')
SELECT * FROM read_text('{inside}')
SELECT content FROM read_blob('{outside}')
SELECT * FROM read_csv('{outside}')
SELECT * FROM read_csv('{inside}', header = false)
SELECT * FROM read_csv_auto('{outside}')
SELECT * FROM '{outside}'
SELECT * FROM "{outside}"
FROM '{inside}'
TABLE '{outside}'
SELECT * FROM read_text('{elsewhere}/*')
SELECT * FROM read_text(['{outside}', '{inside}'])
SELECT * FROM READ_TEXT('{outside}')
SELECT * FROM "read_text"('{outside}')
SELECT * FROM main.read_text('{outside}')
SELECT * FROM system.main.read_text('{outside}')
SELECT/**/*/**/FROM/**/read_text/**/('{outside}')
SELECT * FROM read_text(E'{outside}')
SELECT * FROM read_text($${outside}$$)
SELECT * FROM read_text('{elsewhere}/../{elsewhere_name}/{outside_name}')
SELECT * FROM read_text(concat('{elsewhere}/', '{outside_name}'))
SELECT (SELECT content FROM read_text('{outside}'))
SELECT * FROM actions WHERE error((SELECT content FROM read_text('{outside}'))) IS NULL
WITH t AS (SELECT * FROM read_text('{outside}')) SELECT * FROM t
WITH t AS MATERIALIZED (SELECT * FROM read_text('{outside}')) SELECT * FROM t
WITH RECURSIVE t AS (SELECT content FROM read_text('{outside}') UNION SELECT content FROM t) SELECT * FROM t
SELECT 1, 'x' UNION ALL SELECT 2, content FROM read_text('{outside}')
SELECT content FROM read_text('{outside}') INTERSECT SELECT content FROM read_text('{outside}')
SELECT r.content FROM range(1) t(i), LATERAL (SELECT * FROM read_text('{outside}')) r
SELECT r.content FROM range(1) t(i) JOIN read_text('{outside}') r ON true
SELECT r.content FROM range(1) t(i) POSITIONAL JOIN read_text('{outside}') r
SELECT [content FOR content IN (SELECT list(content) FROM read_text('{outside}'))]
SELECT CASE WHEN true THEN (SELECT content FROM read_text('{outside}')) END
SELECT array(SELECT content FROM read_text('{outside}'))
SELECT {{'a': (SELECT content FROM read_text('{outside}'))}}
SELECT max(content) OVER (ORDER BY (SELECT size FROM read_text('{outside}'))) FROM read_text('{outside}')
SELECT count(*), any_value(content) FROM read_text('{outside}') GROUP BY (SELECT size FROM read_text('{outside}'))
SELECT content FROM read_text('{outside}') ORDER BY (SELECT size FROM read_text('{outside}'))
VALUES ((SELECT content FROM read_text('{outside}')))
SELECT * FROM (VALUES ((SELECT content FROM read_text('{outside}'))))
FROM (FROM read_text('{outside}')) PIVOT (any_value(content) FOR size IN (22)  GROUP BY content)
UNPIVOT (FROM read_text('{outside}')) ON content INTO NAME n VALUE v
SUMMARIZE SELECT * FROM read_text('{outside}')
SUMMARIZE '{outside}'
SELECT * FROM query('SELECT * FROM read_text(''{outside}'')')
SELECT * FROM query_table('{outside}')
SELECT * FROM summary((SELECT content FROM read_text('{outside}')))
SELECT coalesce(NULL, (SELECT content FROM read_text('{outside}')))
SELECT content FROM read_text('{outside}') USING SAMPLE 100%
SELECT * FROM parquet_metadata('{parquet}'), read_text('{outside}')
EXPLAIN ANALYZE SELECT * FROM read_text('{outside}') WHERE error(content) IS NULL
""".strip().splitlines()  # fmt: skip

WRITES = """
COPY (SELECT 1) TO '{inside}'
COPY (SELECT 1) TO '{outside}'
COPY actions TO '{inside}' (FORMAT csv)
COPY (SELECT 1 AS x) TO '{outside}' (FORMAT parquet)
COPY (SELECT 1 AS x) TO '{inside}' (FORMAT json)
copy (select 1) to '{outside}'
/* SELECT */ COPY (SELECT 1) TO '{outside}'
-- SELECT 1
SELECT 1; COPY (SELECT 1) TO '{outside}'
SELECT 1;; COPY (SELECT 1) TO '{inside}'
EXPLAIN ANALYZE COPY (SELECT 1) TO '{outside}'
EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{outside}'
ATTACH '{elsewhere}/new.db'; CREATE TABLE new.t AS SELECT 1; DETACH new; COPY (SELECT 1) TO '{outside}'
EXPORT DATABASE '{elsewhere}/export'; COPY (SELECT 1) TO '{outside}'
PREPARE p AS COPY (SELECT 1) TO '{outside}'; EXECUTE p
SET VARIABLE x = 1; COPY (SELECT 1) TO '{inside}'
""".strip().replace("-- SELECT 1\n", "-- SELECT 1\\n").splitlines()  # fmt: skip

OTHERS = """
ATTACH '{outside}'
ATTACH ':memory:' AS other
SELECT * FROM sniff_csv('{outside}')
PRAGMA enable_profiling = 'json'; PRAGMA profiling_output = '{outside}'; SELECT 1
SELECT * FROM read_json('{outside}', format = 'unstructured', records = false, columns = {{'json': 'VARCHAR'}}, ignore_errors = true), read_text('{outside}')
SELECT try((SELECT content FROM read_text('{outside}')))
SELECT list_transform([1], lambda x: (SELECT content FROM read_text('{outside}')))
ATTACH '{elsewhere}/new.db' AS other (READ_ONLY)
DETACH memory
USE memory
IMPORT DATABASE '{elsewhere}'
EXPORT DATABASE '{elsewhere}/export'
INSTALL httpfs
FORCE INSTALL httpfs
INSTALL '{outside}'
LOAD httpfs
LOAD '{outside}'
LOAD '{elsewhere}/x.duckdb_extension'
UPDATE EXTENSIONS
SET enable_external_access = true
SET lock_configuration = false
SET memory_limit = '100GB'
SET threads = 64
SET GLOBAL threads = 64
SET SESSION TimeZone = 'Asia/Tokyo'
SET search_path = 'planning'
SET disabled_optimizers = ''
SET temp_directory = '{elsewhere}'
SET allowed_directories = ['/']
SET python_enable_replacements = true
SET VARIABLE files = ['{parquet}']
RESET memory_limit
RESET ALL
PRAGMA threads = 64
PRAGMA memory_limit = '100GB'
PRAGMA database_list
PRAGMA show_tables
PRAGMA table_info('actions')
PRAGMA version
PRAGMA enable_profiling
PRAGMA enable_external_access
PRAGMA json_execute_serialized_sql('{{}}')
CALL pragma_version()
CALL read_text('{outside}')
CALL enable_logging(storage = 'file', storage_config = {{'path': '{elsewhere}'}})
CALL checkpoint()
CHECKPOINT
FORCE CHECKPOINT
VACUUM
ANALYZE
CREATE TABLE t AS SELECT 1
CREATE TEMP TABLE t (a INTEGER)
CREATE OR REPLACE VIEW actions AS SELECT 1
CREATE VIEW v AS SELECT * FROM read_text('{outside}')
CREATE MACRO f() AS TABLE SELECT * FROM read_text('{outside}')
CREATE OR REPLACE MACRO lower(x) AS (SELECT content FROM read_text('{outside}'))
CREATE FUNCTION f(x) AS x + 1
CREATE SCHEMA s
CREATE SEQUENCE s
CREATE TYPE mood AS ENUM ('a')
CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')
CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'b')
CREATE INDEX i ON actions (user_id)
DROP SECRET s
DROP VIEW actions
DROP TABLE actions
ALTER VIEW actions RENAME TO x
ALTER TABLE actions ADD COLUMN x INTEGER
COMMENT ON VIEW actions IS 'x'
INSERT INTO actions SELECT * FROM actions
INSERT INTO {hot} VALUES (1)
UPDATE actions SET user_id = 'x'
DELETE FROM actions
TRUNCATE actions
MERGE INTO actions USING clicks ON false WHEN NOT MATCHED THEN INSERT VALUES (1)
WITH t AS (INSERT INTO actions VALUES (1) RETURNING *) SELECT * FROM t
WITH t AS (DELETE FROM actions RETURNING *) SELECT * FROM t
BEGIN
COMMIT
ROLLBACK
BEGIN TRANSACTION; SELECT 1
PREPARE p AS SELECT 1
EXECUTE p
DEALLOCATE p
DECLARE c CURSOR FOR SELECT 1
SELECT 1; SELECT 2
SELECT 1; DROP VIEW actions
SELECT 1 /* ; */ ; SELECT 2
SELECT ';' ; SELECT 2
SELECT 1 INTO t
SELECT * FROM actions FOR UPDATE
EXPLAIN CREATE TABLE t AS SELECT 1
EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1
EXPLAIN ANALYZE INSERT INTO actions SELECT 1
EXPLAIN ANALYZE DELETE FROM actions
EXPLAIN EXPLAIN SELECT 1
EXPLAIN (FORMAT json) SELECT 1
EXPLAIN ANALYZE SELECT 1; DROP VIEW actions
EXPLAIN SELECT * FROM read_text('{outside}')
DESCRIBE SELECT * FROM read_csv('{outside}')
DESCRIBE '{outside}'
DESCRIBE
SHOW ALL TABLES
SHOW DATABASES
SHOW SCHEMAS
SHOW VARIABLES
SHOW memory_limit
SHOW TABLES FROM memory
SELECT * FROM (SHOW ALL TABLES)
SELECT * FROM (SHOW DATABASES)
SELECT * FROM glob('/etc/*')
SELECT * FROM glob('{folder}/**')
SELECT * FROM GLOB('{elsewhere}/*')
SELECT * FROM read_text('/proc/self/environ')
SELECT * FROM read_blob('/proc/self/maps')
SELECT * FROM '/proc/self/status'
SELECT * FROM read_text('/proc/self/cmdline')
SELECT * FROM read_text('/dev/stdin')
SELECT * FROM read_text('file://{outside}')
SELECT * FROM read_csv('/dev/fd/3')
SELECT * FROM '/etc/passwd'
SELECT * FROM '{parquet}'
SELECT * FROM '{folder}/**/*.parquet'
SELECT * FROM '*.parquet'
SELECT * FROM read_parquet('{parquet}')
SELECT * FROM read_parquet(getvariable('files'))
SELECT * FROM read_parquet(['{parquet}'], filename = true)
SELECT * FROM parquet_scan('{parquet}')
SELECT * FROM parquet_metadata('{parquet}')
SELECT * FROM parquet_schema('{parquet}')
SELECT * FROM parquet_file_metadata('{parquet}')
SELECT * FROM parquet_kv_metadata('{parquet}')
SELECT * FROM parquet_bloom_probe('{parquet}', 'user_id', 'u1')
SELECT * FROM read_json('{outside}')
SELECT * FROM read_json_auto('{outside}')
SELECT * FROM read_ndjson('{outside}')
SELECT * FROM read_json_objects('{outside}')
SELECT * FROM read_ndjson_objects('{outside}')
SELECT * FROM read_duckdb('{outside}')
SELECT * FROM delta_scan('{folder}')
SELECT * FROM iceberg_scan('{folder}')
SELECT * FROM sqlite_scan('{outside}', 't')
SELECT * FROM postgres_scan('host=127.0.0.1 port={port}', 'public', 't')
SELECT * FROM st_read('{outside}')
SELECT * FROM read_xlsx('{outside}')
SELECT * FROM read_csv('http://127.0.0.1:{port}/x.csv')
SELECT * FROM read_text('http://127.0.0.1:{port}/x')
SELECT * FROM 'http://127.0.0.1:{port}/x.parquet'
SELECT * FROM 'https://127.0.0.1:{port}/x.csv'
SELECT * FROM read_parquet('s3://bucket/x.parquet')
SELECT * FROM 's3://bucket/x.parquet'
ATTACH 'http://127.0.0.1:{port}/x.db'
COPY (SELECT 1) TO 's3://bucket/x.parquet'
COPY (SELECT 1) TO '/dev/stdout'
SELECT getenv('HOME')
SELECT getvariable('files')
SELECT current_setting('temp_directory')
SELECT current_setting('allowed_directories')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_variables()
SELECT * FROM duckdb_secrets()
SELECT * FROM which_secret('s3://x', 's3')
SELECT * FROM duckdb_extensions()
SELECT * FROM duckdb_databases()
SELECT * FROM duckdb_views()
SELECT * FROM duckdb_functions()
SELECT * FROM duckdb_tables()
SELECT * FROM duckdb_columns()
SELECT * FROM duckdb_logs()
SELECT * FROM duckdb_temporary_files()
SELECT * FROM duckdb_external_file_cache()
SELECT * FROM duckdb_memory()
SELECT * FROM pragma_database_size()
SELECT * FROM pragma_storage_info('actions')
SELECT * FROM pragma_table_info('actions')
SELECT * FROM information_schema.tables
SELECT * FROM information_schema.columns
SELECT * FROM pg_catalog.pg_tables
SELECT * FROM pg_catalog.pg_settings
SELECT * FROM sqlite_master
SELECT * FROM duckdb_settings
SELECT * FROM pragma_database_list
SELECT * FROM {hot}
SELECT * FROM {stand_in}
SELECT * FROM main.{hot}
SELECT * FROM temp.main.{hot}
SELECT * FROM memory.main.actions
SELECT * FROM planning.actions
SELECT * FROM actions AT (VERSION => 1)
SELECT * FROM seq_scan('actions')
SELECT * FROM query('SELECT 1')
SELECT * FROM query_table('actions')
SELECT * FROM query_table(['actions', 'duckdb_settings'])
SELECT * FROM histogram_values(duckdb_settings, name)
SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
SELECT json_serialize_sql('SELECT 1')
SELECT json_deserialize_sql('{{}}')
SELECT json_serialize_plan('SELECT * FROM read_text(''{outside}'')')
SELECT * FROM arrow_scan(1, 2, 3)
SELECT * FROM arrow_scan_dumb(1, 2, 3)
SELECT * FROM pandas_scan(1)
SELECT * FROM python_map_function(1)
SELECT * FROM sandbox
SELECT * FROM sys
SELECT * FROM python_canary
SELECT sleep_ms(60000)
SELECT pg_sleep(60)
SELECT write_log('x')
SELECT nextval('s')
SELECT setseed(0.5)
SELECT txid_current()
SELECT current_query()
SELECT current_connection_id()
SELECT pg_get_viewdef('actions')
SELECT vector_type(1)
SELECT stats(user_id) FROM actions
SELECT add_parquet_key('k', 'v')
SELECT 1 WINDOW w AS (PARTITION BY read_text('{outside}')), v AS (ORDER BY 1) ORDER BY read_text('{outside}')
SELECT lower(x) FROM (SELECT getenv('PATH') AS x)
SELECT 'HOME'.getenv()
SELECT list_transform(['HOME'], lambda x: getenv(x))
SELECT list_transform(['HOME'], x -> current_setting(x))
SELECT COLUMNS(lambda c: getenv(c) IS NULL) FROM actions
SELECT * REPLACE (getenv('HOME') AS user_id) FROM actions
SELECT count(*) FILTER (WHERE getenv('HOME') IS NULL) FROM actions
SELECT sum(1) OVER (PARTITION BY getenv('HOME')) FROM actions
SELECT sum(1) OVER (ROWS BETWEEN getvariable('x') PRECEDING AND CURRENT ROW) FROM actions
SELECT * FROM actions LIMIT (SELECT size FROM read_text('{outside}'))
SELECT * FROM range(getvariable('x'))
SELECT * FROM unnest(current_setting('allowed_directories'))
SELECT * FROM generate_series(1, (SELECT size FROM read_text('{outside}')))
SELECT * FROM actions ORDER BY getvariable('x')
SELECT * FROM actions GROUP BY ALL HAVING getvariable('x') IS NULL
SELECT * FROM actions QUALIFY getvariable('x') IS NULL
SELECT * FROM actions a JOIN actions b ON getvariable('x') IS NULL
SELECT DISTINCT ON (getvariable('x')) * FROM actions
SELECT * FROM actions GROUP BY GROUPING SETS ((getvariable('x')), ())
PIVOT actions ON (type || getvariable('x')) IN ('a') USING count(*)
PIVOT actions ON type USING count(*)
UNPIVOT actions ON (getvariable('x')) INTO NAME n VALUE v
SELECT string_agg(user_id, ',' ORDER BY getvariable('x')) FROM actions
SELECT INTERVAL (getvariable('x')) DAY
WITH duckdb_tables AS (SELECT 1) SELECT * FROM duckdb_tables
WITH duckdb_views AS (FROM duckdb_views) SELECT * FROM duckdb_views
WITH "{outside}" AS (SELECT 1) SELECT * FROM "{outside}"
WITH "x.csv" AS (SELECT 1) SELECT 1
SELECT * FROM (WITH t AS (SELECT 1) FROM t), t
WITH t AS (FROM u), u AS (SELECT 1) SELECT * FROM t
WITH t AS (FROM t) SELECT * FROM t
WITH RECURSIVE pg_tables AS (FROM pg_tables UNION ALL FROM pg_tables) FROM pg_tables
WITH RECURSIVE u AS (FROM u UNION ALL SELECT 1) FROM u
""".strip().splitlines()  # fmt: skip
