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
        "ale-py, vector",
        ("ale-py==0.12.1",),
        "ale_py:ALE/Pong-v5",
        sets=(
            "environment.vector=true",
            "environment.count=4",
            "environment.kwargs={max_num_frames_per_episode: 800}",
        ),
        needs="`environment.vector`: the package's own, which resets in the next step",
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
        "bsuite", ("bsuite==0.3.6", "shimmy==2.0.1"), "shimmy:bsuite/catch-v0",
        needs="through shimmy",
    ),
    Package(
        "crafter",
        ("crafter==1.8.3", "shimmy[gym-v26]==2.0.1"),
        "gym:crafter:Env",
        sets=("environment.max_episode_steps=200",),
        needs="the old Gym, through shimmy; its own limit is 10,000 steps",
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
    Package(
        "gym-anm", ("gym-anm==2.0.1",), "gym_anm:ANM6Easy-v0", "sac",
        ("environment.max_episode_steps=100",),
        needs="`environment.max_episode_steps`: it has no limit of its own",
    ),
    Package("gym-anytrading", ("gym-anytrading==2.0.0",), "gym_anytrading:stocks-v0"),
    Package(
        "gym-electric-motor",
        ("gym-electric-motor==3.0.3",),
        "gym_electric_motor:Cont-CC-PMSM-v0",
        "sac",
        ("environment.max_episode_steps=200",),
    ),
    Package("gym-pusht", ("gym-pusht==0.1.8",), "gym_pusht:gym_pusht/PushT-v0", "sac"),
    Package("gym-simplegrid", ("gym-simplegrid==1.1.0",), "gym_simplegrid:SimpleGrid-4x4-v0",
        sets=("environment.max_episode_steps=100",),
    ),
    Package(
        "gym-sokoban",
        ("gym-sokoban==0.0.6", "shimmy[gym-v26]==2.0.1"),
        "gym:gym_sokoban:Sokoban-small-v0",
        sets=("environment.image={size: 64}", "environment.max_episode_steps=60"),
        needs="the old Gym, through shimmy",
    ),
    Package(
        "gym-super-mario-bros",
        ("gym-super-mario-bros==7.4.0", "shimmy[gym-v26]==2.0.1"),
        "gym:gym_super_mario_bros:SuperMarioBros-1-1-v0",
        sets=(SMALL_PICTURES, "environment.max_episode_steps=100"),
        needs="the old Gym, through shimmy; newer versions need Python 3.13",
    ),
    Package(
        "gym-trading-env",
        ("gym-trading-env==0.3.5",),
        "tests.environments.files:trading",
        sets=("environment.max_episode_steps=200",),
        needs="a file: the prices are a table of pandas",
    ),
    Package(
        "gymnasium-2048", ("gymnasium-2048==0.1.2",),
        "gymnasium_2048:gymnasium_2048/TwentyFortyEight-v0",
        sets=("environment.max_episode_steps=500",),
        needs="`environment.max_episode_steps`: a move that changes nothing may repeat for ever",
    ),
    Package("gymnasium-sudoku", ("gymnasium-sudoku==0.3.5",), "gymnasium_sudoku:sudoku-v0", "ppo",
        ("environment.max_episode_steps=100",),
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
    Package(
        "nle",
        ("nle==1.3.0",),
        "nle:NetHackScore-v0",
        sets=(
            "environment.leave_out=[screen_descriptions, inv_strs, tty_chars, tty_colors]",
            "environment.max_episode_steps=200",
        ),
        needs="`environment.leave_out`: texts of bytes look like pictures",
    ),
    Package("panda-gym", ("panda-gym==3.0.7",), "panda_gym:PandaReach-v3", "sac"),
    Package("popgym", ("popgym==1.0.7",), "popgym:popgym-RepeatFirstEasy-v0", "ppo"),
    Package(
        "pybullet-envs-gymnasium",
        ("pybullet-envs-gymnasium==0.6.0",),
        "pybullet_envs_gymnasium:HopperBulletEnv-v0",
        "sac",
    ),
    Package(
        "PyFlyt", ("PyFlyt==0.29.0",), "PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v4", "sac",
        ("environment.max_episode_steps=100",),
    ),
    Package(
        "rtgym",
        ("rtgym==0.16",),
        "tests.environments.files:real_time",
        "sac",
        ("environment.realtime=true",),
        needs="a file: the game is a class; `environment.realtime`",
    ),
    Package(
        "stable-retro",
        ("stable-retro==1.0.1",),
        "stable_retro:make",
        sets=(
            "environment.kwargs={game: Airstriker-Genesis-v0, render_mode: rgb_array}",
            SMALL_PICTURES, "environment.max_episode_steps=100",
        ),
        needs="a function of the package, `stable_retro:make`, with the game as an argument",
    ),
    Package(
        "tetris-gymnasium",
        ("tetris-gymnasium==0.3.1",),
        "tetris_gymnasium.envs:tetris_gymnasium/Tetris",
    ),
    Package(
        "vizdoom",
        ("vizdoom==1.3.2",),
        "vizdoom.gymnasium_wrapper:VizdoomBasic-v1",
        sets=(SMALL_PICTURES, "environment.max_episode_steps=300"),
    ),
)  # fmt: skip

# What was tried with Python 3.11 and could not be played, and why.
NOT_PLAYED = {
    "carl-bench 1.1.1": "takes gymnasium 0.29",
    "citylearn 3.0.2": "downloads its data when it is made, and takes gymnasium 0.28",
    "evogym-py313 0.1.0": "its wheel lacks the simulator, and evogym has none for Python 3.11",
    "gym-hil 0.1.14, miniworld 2.1.0": "need a display or OpenGL",
    "gym-mtsim 2.0.0": "imports pytz, which it does not install",
    "memory-gym 1.0.2": "takes gymnasium 0.29",
    "pybullet 3.2.7 (pybullet_envs)": "reads a registry of gym before 0.26; its port is above",
    "procgen-gym 0.1.1": "needs Python 3.13",
    "safety-gymnasium 1.0.0": "builds an old pygame",
    "slimevolleygym 0.1.0": "imports cv2, which gym no longer brings",
}
