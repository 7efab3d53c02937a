"""Django sessions authorise streams: Headwater calls the view `sse_auth`, without any tokens.

Run by `cargo xtask test --only access`. A complete Django application in one file; an existing
project only needs the view and its line in `urlpatterns`.
"""

import os
import sys

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpResponse, JsonResponse
from django.urls import path

settings.configure(
    SECRET_KEY=os.environ["DJANGO_SECRET_KEY"],
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
)
django.setup()


def login(request):
    # A real application checks a password here and calls django.contrib.auth.login.
    request.session["user"] = request.GET["user"]
    return JsonResponse({"user": request.GET["user"]})


def sse_auth(request):
    user = request.session.get("user")
    if user is None:
        return HttpResponse(status=401)
    if request.GET["action"] == "publish":
        may = [f"from:{user}"].__contains__
    else:
        may = lambda channel: channel == "news" or channel.startswith(f"user:{user}:")  # noqa: E731
    channels = [channel for channel in request.GET.getlist("channel") if may(channel)]
    return JsonResponse({"channels": channels, "user": user, "expires_in": 3600})


urlpatterns = [path("login", login), path("sse-auth", sse_auth)]

if __name__ == "__main__":
    from wsgiref.simple_server import make_server

    make_server("127.0.0.1", int(sys.argv[1]), WSGIHandler()).serve_forever()
