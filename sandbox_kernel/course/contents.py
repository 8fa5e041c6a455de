"""The chapters with their exercises: the table of contents."""

from __future__ import annotations

from typing import NamedTuple

from sandbox_kernel.course.texts import Text


class Exercise(NamedTuple):
    """Something to do, whose check is the function of the same name in the chapter's module."""

    name: str
    title: Text


class Chapter(NamedTuple):
    """A notebook of the course, which is named the same in both languages."""

    number: str
    notebook: str
    title: Text
    checks: str = ""
    """The module of its checks, in `checks/`."""
    exercises: tuple[Exercise, ...] = ()

    @property
    def file(self) -> str:
        """The name of the notebook's file."""
        return f"{self.number}-{self.notebook}.ipynb"


CHAPTERS = (
    Chapter(
        "00",
        "first-sandbox",
        Text("Your first sandbox", "你的第一个沙盒"),
    ),
    Chapter(
        "01",
        "what-is-a-container",
        Text("What is a container?", "容器是什么？"),
        "moving",
        (Exercise("moved", Text("Moved to another machine", "搬到另一台机器")),),
    ),
    Chapter(
        "02",
        "image-layer-container-registry",
        Text("Image, container, registry", "镜像、容器、仓库"),
        "images",
        (Exercise("siblings", Text("Two containers of one image", "同一个镜像的两个容器")),),
    ),
    Chapter(
        "03",
        "one-into-many",
        Text("One machine into many, many into one", "一变多，多变一"),
        "machines",
        (
            Exercise("touched", Text("Memory that is there", "真正存在的内存")),
            Exercise("guest", Text("A view of its own", "自己的视野")),
        ),
    ),
    Chapter(
        "04",
        "measured",
        Text("Container against virtual machine, measured", "容器与虚拟机，实测"),
        "measured",
        (
            Exercise("seen", Text("A process seen from outside", "从外面看一个进程")),
            Exercise("crowd", Text("Many that weigh little", "又多又轻")),
        ),
    ),
    Chapter(
        "05",
        "namespaces",
        Text("Namespaces: a container by hand", "命名空间：亲手做一个容器"),
        "namespaces",
        (
            Exercise("boxed", Text("Six namespaces", "六个命名空间")),
            Exercise("rooted", Text("Another root", "换一个根")),
        ),
    ),
    Chapter(
        "06",
        "control-groups",
        Text("Control groups: share, limit, account", "控制组：分享、限制、记账"),
        "groups",
        (
            Exercise("held", Text("A container that is held", "管得住的容器")),
            Exercise("tamed", Text("A noisy neighbour, tamed", "驯服吵闹的邻居")),
        ),
    ),
    Chapter(
        "07",
        "layers",
        Text("Layers: many files, kept once", "层：许多文件，只存一份"),
        "layers",
        (
            Exercise("clean", Text("No secret in any layer", "任何一层都没有秘密")),
            Exercise("whiteout", Text("What hides a file", "是什么藏起了文件")),
        ),
    ),
    Chapter(
        "08",
        "the-network-of-a-container",
        Text("The network of a container", "容器的网络"),
        "network",
        (Exercise("reachable", Text("A server for its neighbours", "邻居也能访问的服务器")),),
    ),
    Chapter(
        "09",
        "security",
        Text("Security: what root may not do", "安全：root 不能做的事"),
        "walls",
        (
            Exercise("least", Text("As little as possible", "权利越少越好")),
            Exercise("sealed", Text("A process sealed by hand", "亲手封住一个进程")),
        ),
    ),
    Chapter(
        "10",
        "fleet",
        Text("From one machine to a fleet", "从一台机器到一群机器"),
        "fleet",
        (Exercise("budget", Text("Within the budget", "不超预算")),),
    ),
    Chapter(
        "11",
        "a-fresh-container-in-five-milliseconds",
        Text("A fresh container in five milliseconds", "五毫秒一个新容器"),
    ),
)
"""In the order in which they are to be read."""


def exercises() -> dict[str, Chapter]:
    """The chapter of each exercise, by the exercise's name."""
    return {each.name: chapter for chapter in CHAPTERS for each in chapter.exercises}
