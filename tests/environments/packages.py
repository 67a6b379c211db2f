"""Released packages of environments: what to install, what to play, and how."""

from msgspec import Struct


class Package(Struct, frozen=True):
    """One package and one of its environments."""

    name: str
    requirements: tuple[str, ...]
    id: str
    algorithm: str = "dqn"
    sets: tuple[str, ...] = ()  # further settings
    needs: str = ""  # what a user has to know


SMALL_PICTURES = "environment.image={size: 84, grey: true}"

PACKAGES = (
    Package(
        "ale-py",
        ("ale-py==0.12.1", "opencv-python-headless==5.0.0.93"),
        "ale_py:ALE/Pong-v5",
        sets=(
            "environment.kwargs={frameskip: 1}",
            "environment.wrappers={AtariPreprocessing: {}, FrameStackObservation: {stack_size: 4}}",
        ),
        needs="`AtariPreprocessing` needs opencv-python",
    ),
    Package(
        "bluesky-gym",
        ("bluesky-gym==0.2.0",),
        "bluesky_gym.envs:MergeEnv",
        "sac",
        ("environment.max_episode_steps=200",),
        needs="`environment.max_episode_steps`: it has no limit of its own",
    ),
    Package(
        "dm-control",
        ("dm-control==1.0.50", "shimmy==2.0.1", "mujoco==3.17.0", "imageio==2.37.3"),
        "shimmy:dm_control/cartpole-balance-v0",
        "ppo",
        needs="`mujoco==3.17.0` and imageio, by shimmy",
    ),
    Package(
        "flappy-bird-gymnasium",
        ("flappy-bird-gymnasium==0.4.0",),
        "flappy_bird_gymnasium:FlappyBird-v0",
    ),
    Package("gym-anytrading", ("gym-anytrading==2.0.0",), "gym_anytrading:stocks-v0"),
    Package("gym-pusht", ("gym-pusht==0.1.8",), "gym_pusht:gym_pusht/PushT-v0", "sac"),
    Package(
        "gymnasium-2048", ("gymnasium-2048==0.1.2",),
        "gymnasium_2048:gymnasium_2048/TwentyFortyEight-v0",
        sets=("environment.max_episode_steps=500",),
        needs="`environment.max_episode_steps`: a move that changes nothing may repeat for ever",
    ),
    Package(
        "gymnasium-robotics",
        ("gymnasium-robotics==1.4.2", "mujoco==3.11.0"),
        "gymnasium_robotics:FetchReach-v4",
        "sac",
        needs="`mujoco<3.12`",
    ),
    Package("highway-env", ("highway-env==1.12.1",), "highway_env:highway-fast-v0"),
    Package(
        "metaworld",
        ("metaworld==3.1.1",),
        "metaworld:Meta-World/MT1",
        "sac",
        ("environment.kwargs={env_name: reach-v3}",),
    ),
    Package("minigrid", ("minigrid==3.2.0",), "minigrid:MiniGrid-Empty-5x5-v0"),
    Package(
        "mo-gymnasium",
        ("mo-gymnasium==1.3.2",),
        "mo_gymnasium:deep-sea-treasure-v0",
        sets=("environment.wrappers={'mo_gymnasium.wrappers:LinearReward': {}}",),
        needs="`LinearReward`, because a reward is one number",
    ),
    Package("mujoco", ("mujoco==4.0.0", "imageio==2.37.3"), "InvertedPendulum-v5", "sac"),
    Package("panda-gym", ("panda-gym==3.0.7",), "panda_gym:PandaReach-v3", "sac"),
    Package("popgym", ("popgym==1.0.7",), "popgym:popgym-RepeatFirstEasy-v0", "ppo"),
    Package(
        "vizdoom",
        ("vizdoom==1.3.2",),
        "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
        sets=(SMALL_PICTURES, "environment.max_episode_steps=300"),
    ),
)  # fmt: skip
