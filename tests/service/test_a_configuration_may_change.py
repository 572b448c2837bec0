"""New types and promoted properties take effect at the next start, beside what is stored already."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tests.service.running_service import action, running_service, submission

PURCHASE = """
[action_types.purchase]
amountCents = { column = "amount_cents", type = "bigint" }
coupon = { column = "coupon", type = "varchar" }
[action_types.click]
locationX = { column = "location_x", type = "double" }
gift = { column = "gift", type = "boolean" }
"""


def test_types_and_columns_come_and_go_with_the_configuration(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_service(data) as service:
        service.submit(submission("u", action("2023-01-01T00:00:00Z", "CLICK", locationX=1, locationY=2, gift=True)))
        assert service.submit(submission("u", action(type_="purchase"))).json()["rejected"][0]["code"] == "unknown_type"
        service.flush()
        service.submit(submission("u", action("2023-01-02T00:00:00Z", "VIEW", viewedId="v")))
        service.kill()
    config = tmp_path / "purchase.toml"
    config.write_text(PURCHASE)
    with running_service(data, "--config", str(config)) as service:
        sent = [action("2023-01-03T00:00:00Z", "Purchase", amountCents=2**40, coupon=5), action(type_="VIEW")]
        assert service.submit(submission("u", *sent)).json()["accepted"] == 1
        service.submit(submission("u", action("2023-01-04T00:00:00Z", "CLICK", locationX=1.5, gift=False)))
        for _ in range(2):
            assert [one["type"] for one in service.retrieve(userId="u").json()["logs"]] == [
                "CLICK",
                "VIEW",
                "PURCHASE",
                "CLICK",
            ]
            # A type that is not configured any more can still be asked for.
            assert len(service.retrieve(logType="view").json()["logs"]) == 1
            columns = pl.read_parquet(service.retrieve(userId="u", format="parquet").content)
            assert columns["amount_cents"].to_list() == [None, None, 2**40, None]
            assert columns["coupon"].to_list() == [None] * 4
            answer = service.client.post("/api/sql", json={"sql": "SELECT gift, location_x FROM clicks ORDER BY time"})
            assert answer.json()["rows"] == [
                {"gift": None, "location_x": 1.0},
                {"gift": False, "location_x": 1.5},
            ], answer.text
            service.flush()
    with running_service(data) as service:
        assert len(service.retrieve(userId="u").json()["logs"]) == 4
        service.submit(submission("u", action("2023-01-05T00:00:00Z", "CLICK", locationY=3)))
        service.flush()
    table = pl.scan_delta(data / "actions").sort("time").collect()
    assert table["location_y"].to_list() == [2.0, None, None, None, 3.0]
    assert table["amount_cents"].to_list() == [None, None, 2**40, None, None]
    assert table["gift"].to_list() == [None, None, None, False, None]
