"""diffusers#8752 and #3729: what is on the disk is read without asking anybody. Every other test shows so too, since
tests/conftest.py lets none of them reach the network; these show that it does."""

import socket
import threading
import urllib.error
import urllib.request

import pytest

import langevin as lv


def test_the_trap_works():
    for address in (("192.0.2.1", 80), ("2001:db8::1", 80)):
        with pytest.raises(ConnectionRefusedError, match="no test may ask the network"):
            socket.create_connection(address, timeout=1)
    with pytest.raises(urllib.error.URLError, match="no test may ask the network"):
        urllib.request.urlopen("http://huggingface.co", timeout=1)


def test_this_machine_may_be_asked():
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=lambda: server.accept()[0].close())
        answering.start()
        socket.create_connection(server.getsockname(), timeout=5).close()
        answering.join()


def test_a_path_that_is_not_there_is_no_question_to_the_network(tmp_path):
    for path in (tmp_path / "model", "./model", "model.safetensors"):
        with pytest.raises((ValueError, OSError)) as error:
            lv.load(str(path))
        assert "network" not in str(error.value)
