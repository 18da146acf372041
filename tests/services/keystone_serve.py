"""Keystone's WSGI application under waitress (one process, threads).   keystone_serve.py CONF ADDR PORT"""

import os
import sys

conf, addr, port = sys.argv[1:4]
os.environ["OS_KEYSTONE_CONFIG_DIR"] = os.path.dirname(conf)
os.environ["OS_KEYSTONE_CONFIG_FILES"] = conf
sys.argv = ["keystone"]
from keystone.server.wsgi import initialize_public_application  # noqa: E402
from waitress import serve  # noqa: E402

serve(initialize_public_application(), host=addr, port=int(port), threads=int(os.environ.get("THREADS", "8")), ident=None)
