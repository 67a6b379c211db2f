"""The address of the page, as the telemetry node's log gives it."""

from soulsai.launch.supervisor import page_address


def test_the_address_of_the_page_is_read_from_a_log(tmp_path):
    log = tmp_path / "telemetry-node.log"
    assert page_address(log) == ""
    log.write_text("04:45:36 I soulsai.telemetry_node.node: started\n")
    assert page_address(log) == ""
    log.write_text(
        "W soulsai.web.app: the page waits: port 8080 of 127.0.0.1 is in use; it starts\n"
    )
    assert page_address(log) == "waits: port 8080 of 127.0.0.1 is in use; it starts"
    with log.open("a") as more:
        more.write("I soulsai.web.app: page url=http://127.0.0.1:8080\n")
    assert page_address(log) == "http://127.0.0.1:8080"
