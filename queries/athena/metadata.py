"""The catalog operations of the API: data catalogs, databases, tables."""

from __future__ import annotations

import re

from queries.athena.catalog import CATALOG, DATABASE, DataCatalog, Table
from queries.athena.errors import InvalidRequest, MetadataFailure
from queries.athena.paging import page_of
from queries.athena.requests import Request
from queries.athena.result_columns import hive_columns

_DATABASE: dict[str, object] = {"Name": DATABASE, "Description": "The table of actions and its views"}


def list_data_catalogs(request: Request) -> dict[str, object]:
    """ListDataCatalogs: the one catalog."""
    request.only("NextToken", "MaxResults", "WorkGroup")
    return {"DataCatalogsSummary": [{"CatalogName": CATALOG, "Type": "GLUE", "Status": "CREATE_COMPLETE"}]}


def get_data_catalog(request: Request) -> dict[str, object]:
    """GetDataCatalog.

    Raises:
        InvalidRequest: there is no such catalog.
    """
    request.only("Name", "WorkGroup")
    name = request.text("Name")
    if name.lower() != CATALOG.lower():
        raise InvalidRequest(f"DataCatalog {name} was not found")
    description = "The catalog of this service"
    return {"DataCatalog": {"Name": CATALOG, "Type": "GLUE", "Description": description, "Status": "CREATE_COMPLETE"}}


def list_databases(request: Request) -> dict[str, object]:
    """ListDatabases: the one database."""
    request.only("CatalogName", "NextToken", "MaxResults", "WorkGroup", "AttributesToGet")
    _check_catalog(request)
    return {"DatabaseList": [_DATABASE]}


def get_database(request: Request) -> dict[str, object]:
    """GetDatabase.

    Raises:
        MetadataFailure: there is no such catalog or database.
    """
    request.only("CatalogName", "DatabaseName", "WorkGroup")
    _check_catalog(request)
    _check_database(request)
    return {"Database": _DATABASE}


def list_table_metadata(request: Request, catalog: DataCatalog, created_at: float) -> dict[str, object]:
    """ListTableMetadata, those whose names match a regular expression if one is given.

    Raises:
        MetadataFailure: there is no such catalog or database.
        InvalidRequest: the expression is none.
    """
    request.only("CatalogName", "DatabaseName", "Expression", "NextToken", "MaxResults", "WorkGroup", "AttributesToGet")
    _check_catalog(request)
    _check_database(request)
    tables = sorted(catalog.tables.values(), key=lambda table: table.name)
    expression = request.optional_text("Expression")
    if expression:
        try:
            # Clients also send `prefix*`, by which nobody means a repeated last letter.
            is_glob = re.fullmatch(r"[\w*]*", expression) is not None
            pattern = re.compile(expression.replace("*", ".*") if is_glob else expression, re.IGNORECASE)
        except re.error as error:
            raise InvalidRequest(f"Expression is not a regular expression: {error}") from None
        tables = [table for table in tables if pattern.fullmatch(table.name)]
    page, token = page_of(tables, request, at_most=50)
    answer: dict[str, object] = {"TableMetadataList": [_details(table, created_at) for table in page]}
    return {**answer, "NextToken": token} if token is not None else answer


def get_table_metadata(request: Request, catalog: DataCatalog, created_at: float) -> dict[str, object]:
    """GetTableMetadata.

    Raises:
        MetadataFailure: there is no such catalog, database or table.
    """
    request.only("CatalogName", "DatabaseName", "TableName", "WorkGroup")
    _check_catalog(request)
    _check_database(request)
    name = request.text("TableName")
    table = catalog.table(name)
    if table is None:
        raise MetadataFailure(f"Entity Not Found: table {name.lower()}")
    return {"TableMetadata": _details(table, created_at)}


def _check_catalog(request: Request) -> None:
    name = request.text("CatalogName")
    if name.lower() != CATALOG.lower():
        raise MetadataFailure(f"Entity Not Found: catalog {name}")


def _check_database(request: Request) -> None:
    name = request.text("DatabaseName")
    if name.lower() != DATABASE:
        raise MetadataFailure(f"Entity Not Found: database {name}")


def _details(table: Table, created_at: float) -> dict[str, object]:
    keys = set(table.partition_keys)
    parameters = {"EXTERNAL": "TRUE", "table_type": "delta"} if table.definition is None else {"presto_view": "true"}
    return {
        "Name": table.name,
        "CreateTime": created_at,
        "TableType": "EXTERNAL_TABLE" if table.definition is None else "VIRTUAL_VIEW",
        "Columns": hive_columns({name: kind for name, kind in table.columns.items() if name not in keys}),
        "PartitionKeys": hive_columns({key: table.columns[key] for key in table.partition_keys}),
        "Parameters": parameters,
    }
