"""The address of the page, as the telemetry node's log gives it."""

from soulsai.train.supervisor import page_address


def test_the_address_of_the_page_is_read_from_a_log(tmp_path):
    log = tmp_path / "telemetry-node.log"
    assert page_address(log) == ""
    log.write_text("04:45:36 I soulsai.telemetry_node.node: started\n")
    assert page_address(log) == ""
    log.write_text(
        "W soulsai.web.app: page waits address=127.0.0.1:8080 reason='is taken'; set web.port, or\n"
    )
    assert page_address(log) == (
        "waits for 127.0.0.1:8080, which is taken; --set web.port=0 takes any port"
    )
    with log.open("a") as more:
        more.write("I soulsai.web.app: page url=http://127.0.0.1:8080\n")
    assert page_address(log) == "http://127.0.0.1:8080"
